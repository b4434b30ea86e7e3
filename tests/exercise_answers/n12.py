"""Answers to the five steps of the capstone, notebook 12.

No `from __future__ import annotations` here: FastAPI could not find types that are local to a function.
"""

import asyncio
import functools
import random
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import ray.data
import ray.train
import ray.train.torch
import torch
from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, Field, StringConstraints
from ray import serve, tune
from ray.tune.search.optuna import OptunaSearch
from starlette.requests import Request

from helpers.exercises import capstone
from helpers.passages import AUTHORS, DAMAGED, WORDS, batches, build_model, count_right, train_epoch, word_ids

# --- 1: data ----------------------------------------------------------------------------------------------------------

HELD_OUT = ("NORTHANGER ABBEY", "MACBETH", "TWELFTH NIGHT; OR, WHAT YOU WILL")


def read(files):
    ray.data.DataContext.get_current().use_datasource_v2 = False  # it would start a process for each file
    return ray.data.read_parquet(files, override_num_blocks=len(files))


def is_whole(row):
    return row["text"] is not None and DAMAGED not in row["text"] and row["author"] in AUTHORS


def cut(row, step=WORDS):
    ids, label = word_ids(row["text"]), int(row["author"] == AUTHORS[1])
    return [{"work": row["work"], "label": label, "ids": ids[i : i + WORDS]} for i in range(0, len(ids) - 19, step)]


def passages_with(keep=is_whole, cut=cut, is_held_out=lambda row: row["work"] in HELD_OUT):
    """The usual answer, with one thing changed; its functions are local, so that workers need no module of tests."""

    def answer(files):
        parts = read(files).filter(lambda row: keep(row))
        train = parts.filter(lambda row: not is_held_out(row)).flat_map(lambda row: cut(row))
        held_out = parts.filter(lambda row: is_held_out(row)).flat_map(lambda row: cut(row))
        return train.materialize(), held_out.materialize()

    return answer


def splits_the_rows(files):
    passages = read(files).filter(is_whole).flat_map(cut)
    return passages.train_test_split(0.2, shuffle=True, seed=0)


def splits_the_parts(files):
    return passages_with(is_held_out=lambda row: row["part"] % 5 == 0)(files)


def keeps_unknown_authors(files):
    return passages_with(keep=lambda row: row["text"] is not None and DAMAGED not in row["text"])(files)


def keeps_damaged_parts(files):
    return passages_with(keep=lambda row: row["text"] is not None and row["author"] in AUTHORS)(files)


def stumbles_over_a_missing_text(files):
    return passages_with(keep=lambda row: row["author"] in AUTHORS)(files)


def keeps_what_is_left(files):
    def cut_all(row):
        ids, label = word_ids(row["text"]), int(row["author"] == AUTHORS[1])
        starts = range(0, len(ids), WORDS)
        return [{"work": row["work"], "label": label, "ids": ids[i : i + WORDS].tolist()} for i in starts]

    return passages_with(cut=cut_all)(files)


def keeps_every_second(files):
    return passages_with(cut=lambda row: cut(row, 2 * WORDS))(files)


def cuts_with_an_overlap(files):
    return passages_with(cut=lambda row: cut(row, WORDS // 2))(files)


def swaps_the_labels(files):
    return passages_with(cut=lambda row: [{**one, "label": 1 - one["label"]} for one in cut(row)])(files)


def holds_out_one_author(files):
    return passages_with(is_held_out=lambda row: row["work"] in ("EMMA", "NORTHANGER ABBEY"))(files)


def holds_out_the_same_rows(files):
    train, held_out = passages_with()(files)
    return train.union(held_out), held_out


def returns_one_dataset(files):
    return read(files).filter(is_whole).flat_map(cut)


def names_it_author(files):
    return tuple(part.rename_columns({"label": "author"}) for part in passages_with()(files))


def passages_of_frames(files):
    def cut_frame(frame):
        frame = frame.dropna()
        frame = frame[~frame["text"].str.contains(DAMAGED) & frame["author"].isin(AUTHORS)]
        rows = [one for row in frame.to_dict("records") for one in cut(row)]
        work, label, ids = ([row[name] for row in rows] for name in ("work", "label", "ids"))
        return {"work": np.array(work), "label": np.array(label), "ids": np.stack(ids)}

    passages = read(files).map_batches(cut_frame, batch_format="pandas").materialize()
    return passages.filter(expr="work != 'EMMA' and work != 'JULIUS CAESAR'"), passages.filter(
        expr="work == 'EMMA' or work == 'JULIUS CAESAR'"
    )


def passages_of_drawn_works(files):
    parts = read(files).filter(is_whole).materialize()
    drawn = set()
    for author in AUTHORS:
        works = sorted(parts.filter(lambda row, author=author: row["author"] == author).unique("work"))
        drawn |= set(random.Random(1).sample(works, max(1, len(works) // 5)))
    return passages_with(is_held_out=lambda row: row["work"] in drawn)(files)


def passages_with_more_columns(files):
    def cut_lists(row):
        return [{**one, "ids": one["ids"].tolist(), "part": row["part"]} for one in cut(row)]

    return list(passages_with(cut=cut_lists)(files))


# --- 2: train ---------------------------------------------------------------------------------------------------------


def restored(model, optimizer, weights=True, file="model.pt"):
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "rest.pt")
        if weights:
            model.load_state_dict(torch.load(Path(folder) / file))
            optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


def saved(model, optimizer, epoch, folder, file="model.pt"):
    if ray.train.get_context().get_world_rank() != 0:
        return None
    torch.save(model.state_dict(), Path(folder) / file)
    torch.save({"optimizer": optimizer.state_dict(), "epoch": epoch}, Path(folder) / "rest.pt")
    return ray.train.Checkpoint.from_directory(folder)


def share_of(rows):
    rank = ray.train.get_context().get_world_rank()
    even = len(rows["label"]) // 2 * 2
    return {name: values[rank:even:2] for name, values in rows.items()}


def counts_only(model, optimizer, batches):
    return sum(len(batch["label"]) for batch in batches)


def all_of(rows):
    return rows


def trains(
    checkpoint=True,
    restore=True,
    weights=True,
    together=True,
    rows="held_out",
    prefix=False,
    prepare=True,
    hook=True,
    first=1,
    learn=train_epoch,
    file="model.pt",
    rank_0_only=False,
    name="val_accuracy",
    share=share_of,
):
    """A training function with one mistake, or none."""

    def answer(config):
        train, held_out = share(config["train"]), share(config[rows])
        model = build_model()
        model = ray.train.torch.prepare_model(model) if prepare else model
        plain = getattr(model, "module", model)
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
        done = restored(model if prefix else plain, optimizer, weights, file) if restore else 0
        for epoch in range(done + first, config["epochs"] + 1):
            count = learn(model, optimizer, batches(train, config["batch_size"]))
            counts = torch.tensor(count_right(model, batches(held_out)))
            if together:
                torch.distributed.all_reduce(counts)
            metrics = {"epoch": epoch, "rows": count, name: (counts[0] / counts[1]).item()}
            with tempfile.TemporaryDirectory() as folder:
                kept = saved(model if prefix else plain, optimizer, epoch, folder, file) if checkpoint else None
                if not rank_0_only or ray.train.get_context().get_world_rank() == 0:
                    ray.train.report(metrics, checkpoint=kept)
            if hook:
                config["after_epoch"](epoch)

    return answer


def trains_with_one_more_file(config):
    """Everything in one file, and the weights once more; the counts as objects."""
    model = ray.train.torch.prepare_model(build_model())
    optimizer = torch.optim.Adam(model.module.parameters(), lr=config["lr"])
    done, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint:
        state = torch.load(Path(checkpoint.to_directory()) / "all.pt", weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"]
    for epoch in range(1, config["epochs"] + 1):
        if epoch <= done:
            continue
        rows = train_epoch(model, optimizer, batches(share_of(config["train"]), config["batch_size"]))
        counts = [None] * ray.train.get_context().get_world_size()
        torch.distributed.all_gather_object(counts, count_right(model.module, batches(share_of(config["held_out"]))))
        accuracy = sum(c for c, _ in counts) / sum(n for _, n in counts)
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(folder) / "all.pt")
            torch.save(state["model"], Path(folder) / "model.pt")
            kept = ray.train.Checkpoint(folder) if ray.train.get_context().get_world_rank() == 0 else None
            ray.train.report({"epoch": epoch, "rows": rows, "val_accuracy": accuracy, "x": 1}, checkpoint=kept)
        config["after_epoch"](epoch)


def trains_with_a_loader(config):
    """PyTorch's own loader, which Ray Train shares out."""
    pairs = torch.utils.data.TensorDataset(*(torch.as_tensor(config["train"][name]) for name in ("ids", "label")))
    loader = torch.utils.data.DataLoader(pairs, batch_size=config["batch_size"], shuffle=True)
    loader = ray.train.torch.prepare_data_loader(loader)
    model = ray.train.torch.prepare_model(build_model())
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for epoch in range(restored(model.module, optimizer) + 1, config["epochs"] + 1):
        loader.sampler.set_epoch(epoch)
        rows = train_epoch(model, optimizer, ({"ids": ids, "label": label} for ids, label in loader))
        counts = torch.tensor(count_right(model, batches(config["held_out"])), dtype=torch.float64)
        torch.distributed.all_reduce(counts)
        with tempfile.TemporaryDirectory() as folder:
            kept = saved(model.module, optimizer, epoch, folder)
            metrics = {"val_accuracy": float(counts[0] / counts[1]), "epoch": epoch, "rows": rows}
            ray.train.report(metrics, checkpoint=kept)
        config["after_epoch"](epoch)


# --- 3: tune ----------------------------------------------------------------------------------------------------------


DRAWS = tune.search.BasicVariantGenerator(random_state=0)


def searches(scheduler="ASHA", trials=12, epochs=9, metric="val_accuracy", mode="max", lr=None, test=None, **settings):
    """A search with one mistake, or none."""

    def answer(train, held_out, storage):
        rows = train if test == "train" else held_out

        def trial(config):
            torch.set_num_threads(1)
            model = build_model()
            optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
            for epoch in range(1, epochs + 1):
                train_epoch(model, optimizer, batches(train))
                right, total = count_right(model, batches(rows))
                if test != "once" or epoch == epochs:
                    tune.report({"val_accuracy": right / total})

        asha = tune.schedulers.ASHAScheduler(max_t=9) if scheduler == "ASHA" else scheduler
        how = tune.TuneConfig(
            metric=metric, mode=mode, num_samples=trials, scheduler=asha, reuse_actors=True, **settings
        )
        run = tune.RunConfig(storage_path=storage, verbose=0)
        space = {"lr": lr or tune.loguniform(1e-5, 1)}
        return tune.Tuner(trial, param_space=space, tune_config=how, run_config=run).fit()

    return answer


def returns_the_best_config(train, held_out, storage):
    return searches(trials=2)(train, held_out, storage).get_best_result().config


def searches_by_optuna(train, held_out, storage):
    return searches(search_alg=OptunaSearch(seed=3))(train, held_out, storage)


# --- 4: serve ---------------------------------------------------------------------------------------------------------


def answered(model, text):
    with torch.inference_mode():
        shares = model(torch.as_tensor(word_ids(text))[None]).softmax(dim=1)[0].tolist()
    best = int(np.argmax(shares))
    return {"author": AUTHORS[best], "probability": shares[best]}


def loaded(folder):
    model = build_model()
    model.load_state_dict(torch.load(Path(folder) / "model.pt", weights_only=True))
    return model


async def answers_alone(self, text):
    return answered(self.model, text)


async def keeps_the_text_in_self(self, text):
    self.text = text
    await asyncio.sleep(0.02)
    return answered(self.model, self.text)


async def sleeps(self, text):
    await asyncio.sleep(0.4)
    return answered(self.model, text)


async def answers_with_a_name(self, text):
    return answered(self.model, text)["author"]


async def gives_the_share_of_austen(self, text):
    found = answered(self.model, text)
    share = found["probability"]
    return {**found, "probability": share if found["author"] == AUTHORS[1] else 1 - share}


LETTERS = Annotated[str, Field(max_length=2000, pattern="[A-Za-z]")]


def service(answer=answers_alone, kind=LETTERS, load=loaded, replicas=2, route="/", **options):
    """The usual answer, with one thing changed."""
    http = FastAPI()

    class Question(BaseModel):
        text: kind

    class Author:
        def __init__(self, folder):
            torch.set_num_threads(1)
            self.model = load(folder)

        @http.post(route)
        async def who(self, question: Question):
            return await answer(self, question.text)

    made = serve.ingress(http)(Author)
    return serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": 0.5, **options})(made)


def service_without_types():
    http = FastAPI()

    class Author:
        def __init__(self, folder):
            self.model = loaded(folder)

        @http.post("/")
        async def who(self, request: Request):
            return answered(self.model, (await request.json())["text"])

    return serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})(serve.ingress(http)(Author))


def service_with_batches(order=lambda texts: texts):
    """All texts of a batch at once, with offsets; `order` is what happens to them on the way."""
    http = FastAPI()

    class Question(BaseModel):
        text: LETTERS

    class Author:
        def __init__(self, folder):
            torch.set_num_threads(1)
            self.model = loaded(folder)

        @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
        async def together(self, texts):
            ids = [torch.as_tensor(word_ids(text)) for text in order(texts)]
            offsets = torch.tensor([0, *np.cumsum([len(one) for one in ids])[:-1]])
            with torch.inference_mode():
                shares = self.model(torch.cat(ids), offsets).softmax(dim=1).tolist()
            return [{"author": AUTHORS[int(np.argmax(s))], "probability": max(s)} for s in shares]

        @http.post("/")
        async def who(self, question: Question):
            return await self.together(question.text)

    made = serve.ingress(http)(Author)
    return serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=32)(made)


def service_that_refuses_by_itself():
    http = FastAPI()

    class Author:
        def __init__(self, folder):
            self.model = loaded(folder)

        @http.post("/")
        def who(self, text: Annotated[str, Body(embed=True)]):
            if len(text) > 2000 or not len(word_ids(text)):
                raise HTTPException(422, "a text has up to 2,000 characters, and at least one word")
            return answered(self.model, text)

    return serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.3})(serve.ingress(http)(Author))


def service_with_an_answer_model():
    http = FastAPI()

    class Question(BaseModel):
        text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000, pattern=r"[a-zA-Z]")]

    class Answer(BaseModel):
        author: str
        probability: float
        words: int

    class Author:
        def __init__(self, folder):
            self.model = loaded(folder)

        @http.post("/", response_model=Answer)
        async def who(self, question: Question):
            return Answer(**answered(self.model, question.text), words=len(word_ids(question.text)))

    made = serve.ingress(http)(Author)
    return serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})(made)


# --- 5: all together --------------------------------------------------------------------------------------------------


def together(train=None, workers=2, failures=1, deployment=service, serves=True, name="author", prepare=None):
    """A pipeline with one mistake, or none."""

    def answer(files, config, storage):
        made = (part.take_batch(10**6) for part in (prepare or passages_with())(files))
        train_rows, held_out = ({name: part[name] for name in ("ids", "label")} for part in made)
        run = ray.train.RunConfig(
            name="run", storage_path=storage, failure_config=ray.train.FailureConfig(max_failures=failures)
        )
        trainer = ray.train.torch.TorchTrainer(
            train or trains(),
            train_loop_config={**config, "train": train_rows, "held_out": held_out},
            scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
            run_config=run,
        )
        result = trainer.fit()
        if serves:
            serve.run(deployment().bind(result.checkpoint.path), name=name, route_prefix=f"/{name}")
        return result

    return answer


def returns_nothing(files, config, storage):
    passages_with()


def makes_a_result_up(files, config, storage):
    return ray.train.Result(metrics={"epoch": 4, "val_accuracy": 0.99}, checkpoint=None, error=None, path=storage)


def trains_in_the_notebook(files, config, storage):
    rows, _ = passages_with()(files)
    frame = next(iter(rows.iter_batches(batch_size=None)))
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for epoch in range(1, config["epochs"] + 1):
        train_epoch(model, optimizer, batches(frame))
        config["after_epoch"](epoch)


def untrained(folder):
    return build_model()


WRONG = {
    (1, capstone.passages): [
        (splits_the_rows, "Split the works, not the rows"),
        (keeps_unknown_authors, "nobody knows its label"),
        (keeps_damaged_parts, "leave the whole part out"),
        (stumbles_over_a_missing_text, "leave it out before"),
        (splits_the_parts, "Split the works, not the rows"),
        (keeps_what_is_left, "drop it"),
        (keeps_every_second, "keep all its passages"),
        (cuts_with_an_overlap, "from its beginning"),
        (swaps_the_labels, "0 for Shakespeare"),
        (holds_out_one_author, "at least one work of either author"),
        (holds_out_the_same_rows, "there twice"),
        (returns_one_dataset, "return train, held_out"),
        (names_it_author, "these three names"),
    ],
    (2, capstone.training): [
        (trains(checkpoint=False), "nothing was saved"),
        (trains(restore=False), "began anew"),
        (trains(weights=False), "load both"),
        (trains(together=False), "all_reduce"),
        (trains(rows="train"), "held_out"),
        (trains(prefix=True), "model.module"),
        (trains(prepare=False), "prepare_model"),
        (trains(hook=False), "after_epoch"),
        (trains(first=2), "counted from 1"),
        (trains(file="weights.pt"), "model.pt"),
        (trains(rank_0_only=True), "Every worker must do the same"),
        (trains(name="accuracy"), "val_accuracy"),
        (trains(learn=counts_only), "train with train_epoch"),
        (trains(share=all_of), "its own share"),
    ],
    (3, capstone.search): [
        (searches(scheduler=None), "Nothing stops a bad trial early"),
        (searches(mode="min"), 'mode="max"'),
        (searches(trials=6), "num_samples"),
        (searches(test="train"), "Count on held_out"),
        (searches(test="once", scheduler=None), "Report after each epoch"),
        (searches(epochs=4), "Report after each epoch"),
        (searches(lr=tune.uniform(1e-5, 1), search_alg=DRAWS), "tune.loguniform"),
        (searches(lr=0.01), "Draw one for each trial"),
        (returns_the_best_config, "Return what Tuner"),
    ],
    (4, capstone.service): [
        (service_without_types, "a 500"),
        (lambda: service_with_batches(lambda texts: sorted(texts)), "a batch in its order"),
        (lambda: service(keeps_the_text_in_self), "keep nothing of a request in self"),
        (lambda: service(replicas=1), "num_replicas=2"),
        (lambda: service(kind=str), "a pattern with a letter"),
        (lambda: service(kind=Annotated[str, Field(min_length=1, max_length=2000)]), "a pattern with a letter"),
        (lambda: service(sleeps), "Load the model once"),
        (lambda: service(load=untrained), "Load model.pt"),
        (lambda: service(answers_with_a_name), "Return an object"),
        (lambda: service(gives_the_share_of_austen), "The probability is that of the author"),
        (lambda: service(route="/author"), "a typed argument"),
        (lambda: service().func_or_class, "Keep @serve.deployment"),
        (lambda: service(num_cpus=2), "Two of them have to fit"),
    ],
    (5, capstone.pipeline): [
        (returns_nothing, "Return what TorchTrainer"),
        (makes_a_result_up, "Pass train_author"),
        (trains_in_the_notebook, "Return what TorchTrainer"),
        (together(failures=0), "FailureConfig(max_failures=1)"),
        (together(train=trains(restore=False)), "it began anew"),
        (together(workers=1, train=trains(together=False, share=all_of)), "num_workers=2"),
        (together(serves=False), "serve.run"),
        (together(deployment=functools.partial(service, load=untrained)), "Serve a checkpoint of this run"),
    ],
}
RIGHT = {
    (1, capstone.passages): [passages_of_frames, passages_of_drawn_works, passages_with_more_columns],
    (2, capstone.training): [trains_with_one_more_file, trains_with_a_loader, trains()],
    (3, capstone.search): [
        searches(scheduler=tune.schedulers.ASHAScheduler(max_t=9, reduction_factor=4)),
        searches_by_optuna,
        searches(scheduler=tune.schedulers.ASHAScheduler(max_t=9, grace_period=2)),
    ],
    (4, capstone.service): [service_with_batches, service_that_refuses_by_itself, service_with_an_answer_model],
    (5, capstone.pipeline): [
        together(),
        together(train=trains_with_a_loader, deployment=service_with_batches),
        together(prepare=passages_of_drawn_works, failures=-1),
    ],
}
