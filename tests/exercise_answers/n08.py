"""Answers to the exercises of notebook 08."""

from __future__ import annotations

from peft import AutoPeftModelForCausalLM, PeftModel
from ray import serve
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from helpers.exercises import serve_gptj

STOP = "\n\n"


def right_length(kept):
    return 1 if kept.endswith("\n") else 0


def one_speech(held=right_length, stop_too=False, rest=True, goes_on=False, before=True, tokens=True, cancel=True):
    """An answer to exercise 1 that keeps back held(kept) characters, perhaps with something left out."""

    @serve.deployment
    class OneSpeech:
        def __init__(self, writer):
            self.writer = writer.options(stream=True)

        async def stream(self, prompt, max_tokens=40):
            kept, found = "", False
            asked = (prompt, max_tokens) if tokens else (prompt,)
            pieces = self.writer.stream.remote(*asked)
            async for piece in pieces:
                if found:
                    continue
                kept += piece
                if STOP in kept:
                    found = True
                    text = kept.partition(STOP)[0] + (STOP if stop_too else "")
                    if text and before:
                        yield text
                    if not goes_on:
                        if cancel:
                            pieces.cancel()
                        return
                    continue
                count = len(kept) - held(kept)
                if count > 0:
                    yield kept[:count]
                    kept = kept[count:]
            if kept and rest and not found:
                yield kept

    return OneSpeech


@serve.deployment
class LooksAtEachPiece:
    def __init__(self, writer):
        self.writer = writer.options(stream=True)

    async def stream(self, prompt, max_tokens=40):
        pieces = self.writer.stream.remote(prompt, max_tokens)
        async for piece in pieces:
            before, found, _ = piece.partition(STOP)
            if before:
                yield before
            if found:
                pieces.cancel()
                return


@serve.deployment
class OnePiece:
    def __init__(self, writer):
        self.writer = writer.options(stream=True)

    async def stream(self, prompt, max_tokens=40):
        pieces = [piece async for piece in self.writer.stream.remote(prompt, max_tokens)]
        yield "".join(pieces).partition(STOP)[0]


@serve.deployment
class AwaitsTheStream:
    def __init__(self, writer):
        self.writer = writer

    async def stream(self, prompt, max_tokens=40):
        yield (await self.writer.stream.remote(prompt, max_tokens)).partition(STOP)[0]


@serve.deployment
class LetterByLetter:
    def __init__(self, writer):
        self.writer = writer.options(stream=True)

    async def stream(self, prompt, max_tokens=40):
        waiting = False
        pieces = self.writer.stream.remote(prompt, max_tokens=max_tokens)
        async for piece in pieces:
            for letter in piece:
                if letter == "\n" and waiting:
                    pieces.cancel()
                    return
                if waiting:
                    yield "\n"
                waiting = letter == "\n"
                if not waiting:
                    yield letter
        if waiting:
            yield "\n"


@serve.deployment
class ByPosition:
    def __init__(self, writer):
        self.writer = writer

    async def stream(self, prompt, max_tokens=40):
        text, sent = "", 0
        handle = self.writer.options(stream=True, method_name="stream")
        pieces = handle.remote(prompt, max_tokens)
        try:
            async for piece in pieces:
                text += piece
                at = text.find(STOP)
                end = at if at >= 0 else len(text.removesuffix("\n"))
                if end > sent:
                    yield text[sent:end]
                    sent = end
                if at >= 0:
                    return
        finally:
            pieces.cancel()
        if text[sent:]:
            yield text[sent:]


def adapted(adapter=True, prompt_too=False, sample=False, longer=0, early=True, merged=False, tokens=False):
    """An answer to exercise 2, perhaps with something left out."""

    @serve.deployment
    class Adapted:
        def __init__(self, base, folder):
            self.tokenizer = AutoTokenizer.from_pretrained(base)
            self.base, self.folder = base, folder
            self.model = self.load() if early else None

        def load(self):
            model = AutoModelForCausalLM.from_pretrained(self.base, dtype="float32")
            if adapter:
                model = PeftModel.from_pretrained(model, self.folder)
            return (model.merge_and_unload() if merged else model).eval()

        def __call__(self, prompt, max_tokens):
            model = self.model or self.load()
            inputs = self.tokenizer(prompt, return_tensors="pt")
            how = {"do_sample": sample, "temperature": 2.0} if sample else {"do_sample": False}
            answer = model.generate(**inputs, **how, max_new_tokens=max_tokens + longer)[0]
            new = answer if prompt_too else answer[inputs["input_ids"].shape[1] :]
            return new.tolist() if tokens else self.tokenizer.decode(new)

    return Adapted


@serve.deployment
class MaxLength:
    def __init__(self, base, adapter):
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        self.model = PeftModel.from_pretrained(model, adapter).eval()

    def __call__(self, prompt, max_tokens):
        inputs = self.tokenizer(prompt, return_tensors="pt")
        answer = self.model.generate(**inputs, do_sample=False, max_new_tokens=40)[0]
        return self.tokenizer.decode(answer[inputs["input_ids"].shape[1] :])


@serve.deployment
class WithAPipeline:
    def __init__(self, base, adapter):
        model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        self.write = pipeline("text-generation", model=merged, tokenizer=AutoTokenizer.from_pretrained(base))

    def __call__(self, prompt, max_tokens):
        how = {"max_new_tokens": max_tokens, "do_sample": False, "return_full_text": False}
        return self.write(prompt, **how)[0]["generated_text"]


@serve.deployment
class AutoPeft:
    def __init__(self, base, adapter):
        self.model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype="float32").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base)

    async def __call__(self, prompt, max_tokens):
        inputs = self.tokenizer(prompt, return_tensors="pt")
        answer = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)
        return self.tokenizer.decode(answer[0]).removeprefix(prompt)


def a_function(prompt, max_tokens=40):
    return prompt


def as_made(answers):
    """tests/test_exercises.py makes answers for Serve when it runs; these are made already."""
    return [lambda answer=answer: answer for answer in answers]


def with_hints(*pairs):
    return list(zip(as_made(answer for answer, _ in pairs), (hint for _, hint in pairs), strict=True))


# `make test` tries the first two wrong ones and the first right one.
WRONG = {
    (1, serve_gptj.one_speech): with_hints(
        (LooksAtEachPiece, "the beginning of the stop"),
        (one_speech(goes_on=True), "Return when the empty line has come"),
        (OnePiece, "Keep back only a line break"),
        (one_speech(cancel=False), "call its cancel()"),
        (one_speech(stop_too=True), "does not belong to the answer"),
        (one_speech(rest=False), "what you kept back is text"),
        (one_speech(before=False), "The text before the stop"),
        (one_speech(held=lambda kept: min(len(kept), 1)), "Keep back only a line break"),
        (one_speech(held=lambda kept: 0), "beginning of the stop"),
        (one_speech(tokens=False), "Pass max_tokens on"),
        (AwaitsTheStream, "async for piece in"),
        (a_function, "Keep @serve.deployment"),
    ),
    (2, serve_gptj.adapted): with_hints(
        (adapted(adapter=False), "the base model alone"),
        (adapted(early=False), "Load both in __init__"),
        (adapted(prompt_too=True), "Only the new text"),
        (adapted(sample=True), "do_sample=False"),
        (adapted(longer=3), "max_new_tokens=max_tokens"),
        (MaxLength, "max_new_tokens=max_tokens"),
        (adapted(tokens=True), "Decode the new tokens"),
        (a_function, "Keep @serve.deployment"),
    ),
}
RIGHT = {
    (1, serve_gptj.one_speech): as_made([one_speech(), LetterByLetter, ByPosition]),
    (2, serve_gptj.adapted): as_made([adapted(), adapted(merged=True), WithAPipeline, AutoPeft]),
}
