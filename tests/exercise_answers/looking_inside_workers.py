"""Answers to the exercises of the deep dive looking_inside_workers."""

from __future__ import annotations

import json
import logging

import numpy as np
import ray
from ray.util.state import get_log

from helpers.exercises import inside_a_worker

LEVELS = ("WARNING", "ERROR", "CRITICAL")


def text_of(ref):
    return "".join(get_log(ray.get_runtime_context().gcs_address, task_id=ref.task_id().hex(), suffix="err"))


def log_of(ref):
    return [json.loads(line) for line in text_of(ref).splitlines()]


# --- Exercise 1: wrong ---


def only_warnings(refs):
    found = {i: [e["message"] for e in log_of(ref) if e["levelname"] == "WARNING"] for i, ref in enumerate(refs)}
    return {i: messages for i, messages in found.items() if messages}


def every_task(refs):
    return {i: [e["message"] for e in log_of(ref) if e["levelname"] in LEVELS] for i, ref in enumerate(refs)}


def by_the_text(refs):
    found = {}
    for i, ref in enumerate(refs):
        for line in text_of(ref).splitlines():
            if any(level in line for level in LEVELS):
                found.setdefault(i, []).append(json.loads(line)["message"])
    return found


def everything_they_wrote(refs):
    return {i: [e["message"] for e in log_of(ref)] for i, ref in enumerate(refs) if by_the_text([ref])}


def whole_entries(refs):
    found = {i: [e for e in log_of(ref) if e["levelname"] in LEVELS] for i, ref in enumerate(refs)}
    return {i: entries for i, entries in found.items() if entries}


def a_list_of_messages(refs):
    return [e["message"] for ref in refs for e in log_of(ref) if e["levelname"] in LEVELS]


def by_task_id(refs):
    return {refs[i].task_id().hex(): messages for i, messages in by_level_number(refs).items()}


# --- Exercise 1: right ---


def by_level_number(refs):
    found = {}
    for i, ref in enumerate(refs):
        messages = [e["message"] for e in log_of(ref) if getattr(logging, e["levelname"]) >= logging.WARNING]
        if messages:
            found[i] = messages
    return found


def by_leaving_out(refs):
    found = every_task(refs)
    return {i: found[i] for i in found if found[i]}


def in_parallel(refs):
    @ray.remote(num_cpus=0)
    def read(holder):
        return [e["message"] for e in log_of(holder[0]) if e["levelname"] not in ("INFO", "DEBUG", "NOTSET")]

    return {i: found for i, found in enumerate(ray.get([read.remote([ref]) for ref in refs])) if found}


# --- Exercise 2 ---


def picture_of(number):
    return np.random.default_rng(number).integers(0, 256, (2000, 2000), dtype=np.uint8)


class Slices:
    def __init__(self):
        self.small = {}

    def shrink(self, number):
        self.small[number] = picture_of(number)[::50, ::50]
        return self.small[number].nbytes

    def thumbnail(self, number):
        return self.small[number]


class SlicesInAList(Slices):
    def __init__(self):
        self.small = [None] * 1000


class PicturesToo(Slices):
    def __init__(self):
        super().__init__()
        self.pictures = []

    def shrink(self, number):
        self.pictures.append(picture_of(number))
        self.small[number] = self.pictures[-1][::50, ::50].copy()
        return 1600


class OnlyTheLast(Slices):
    def shrink(self, number):
        self.last = picture_of(number)[::50, ::50].copy()
        return self.last.nbytes

    def thumbnail(self, number):
        return self.last


class AnotherPart(Slices):
    def shrink(self, number):
        self.small[number] = picture_of(number)[:40, :40].copy()
        return self.small[number].nbytes


class SizeOfThePicture(Slices):
    def shrink(self, number):
        picture = picture_of(number)
        self.small[number] = picture[::50, ::50].copy()
        return picture.nbytes


class CopiesOfThePicture(Slices):
    def shrink(self, number):
        self.small[number] = picture_of(number).copy()[::50, ::50]
        return 1600


class Copies(Slices):
    def shrink(self, number):
        self.small[number] = np.array(picture_of(number)[::50, ::50])
        return self.small[number].nbytes


class Bytes(Slices):
    def shrink(self, number):
        self.small[number] = picture_of(number)[::50, ::50].tobytes()
        return len(self.small[number])

    def thumbnail(self, number):
        return np.frombuffer(self.small[number], dtype=np.uint8).reshape(40, 40)


class MadeAgain:
    def shrink(self, number):
        return self.thumbnail(number).nbytes

    def thumbnail(self, number):
        return picture_of(number)[::50, ::50]


WRONG = {
    (1, inside_a_worker.complaints): [
        (only_warnings, "of WARNING, ERROR and CRITICAL"),
        (every_task, "leave out tasks without a complaint"),
        (by_the_text, "Look at levelname alone"),
        (everything_they_wrote, "Look at levelname alone"),
        (whole_entries, "The messages alone"),
        (a_list_of_messages, "place -> messages"),
        (by_task_id, "places in refs"),
    ],
    (2, inside_a_worker.thumbnails): [
        (Slices, "bytes of its own"),
        (SlicesInAList, "bytes of its own"),
        (PicturesToo, "bytes of its own"),
        (CopiesOfThePicture, "bytes of its own"),
        (OnlyTheLast, "for every picture so far"),
        (AnotherPart, "for every picture so far"),
        (SizeOfThePicture, "the bytes of the thumbnail"),
        (Slices(), "Give the class itself"),
    ],
}
RIGHT = {
    (1, inside_a_worker.complaints): [by_level_number, by_leaving_out, in_parallel],
    (2, inside_a_worker.thumbnails): [Copies, Bytes, MadeAgain],
}
