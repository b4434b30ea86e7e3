"""The service of notebook 06 as one would deploy it, for `serve run`, `serve build` and `serve deploy`.

Beside what the notebook builds, it takes JSON as well as PNG, refuses bodies and images that are
too large before it unpacks them, bounds its queues, asks again when a replica dies, and keeps the
interface (`Api`) and the network (`Model`) in two deployments, which can be scaled apart.
"""

import asyncio
import math
from typing import Annotated

import numpy as np
import ray
from fastapi import Body, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from helpers import data
from helpers.images import decode_png


def load_network(folder):
    """The trained ResNet-18, ready to predict."""
    import torch
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    torch.set_num_threads(1)  # replicas share the cores
    net = resnet18(num_classes=10)
    net.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    net.load_state_dict(load_file(f"{folder}/model.safetensors"))
    reserved = ray.is_initialized() and ray.get_gpu_ids()
    device = "cuda" if reserved else "cpu"
    return net.to(device).eval()


def probabilities(net, pictures):
    """Ten numbers for each picture of 28 x 28 grey levels."""
    import torch

    device = next(net.parameters()).device
    batch = torch.from_numpy(np.stack(pictures)).to(device)
    with torch.inference_mode():
        outputs = net((batch.float().unsqueeze(1) / 255 - 0.286) / 0.353)
    return outputs.softmax(dim=1).tolist()


@serve.deployment
class Model:
    """Answers a picture of 28 x 28 grey levels with ten probabilities."""

    def __init__(self, version, folder):
        self.net = load_network(folder)
        self.version, self.lock = version, asyncio.Lock()

    def classify(self, pictures):
        rows = probabilities(self.net, pictures)
        return [{"probabilities": row, "version": self.version} for row in rows]

    async def check_health(self):
        # The way of a request: behind a calculation that hangs it waits, too, until Serve's time limit ends it.
        await self.predict(np.zeros((28, 28), np.float32))

    async def predict(self, picture):
        async with self.lock:  # one calculation at a time on this replica's core
            return (await asyncio.to_thread(self.classify, [picture]))[0]

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def predict_batched(self, pictures):
        async with self.lock:
            return await asyncio.to_thread(self.classify, pictures)


Grey = Annotated[float, Field(strict=True, ge=0, le=255, allow_inf_nan=False)]
Row = Annotated[list[Grey], Field(min_length=28, max_length=28)]
Png = Annotated[bytes, Body(media_type="image/png")]


class Picture(BaseModel):
    pixels: Annotated[list[Row], Field(min_length=28, max_length=28)]


class Answer(BaseModel):
    label: str
    probability: float
    version: str


class Problem(BaseModel):
    detail: str


async def explain(request, error):
    """One sentence: where it is wrong, and why."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)


too_large = {"description": "more than 1 MB"}
about_http = {
    "max_body_size": 1_000_000,  # bytes; what is longer is not read to its end
    "exception_handlers": {RequestValidationError: explain},
    "responses": {code: {"model": Problem} for code in (400, 422, 503)} | {413: too_large},
}


def decode(png):
    """The grey levels of a PNG, or a sentence for whoever sent something else."""
    try:
        return decode_png(png)
    except ValueError as problem:
        raise HTTPException(422, f"body: {problem}") from None


async def ask(method, picture):
    """Call a model; ask again if its replica died, refuse if its queue is full."""
    for wait in (0.1, 0.5, 2, None):
        try:
            return await method.remote(picture)
        except BackPressureError:
            raise HTTPException(503, "busy: try again later") from None
        except RayActorError:
            if wait is None:
                raise HTTPException(503, "no replica answers") from None
            await asyncio.sleep(wait)


def to_answer(reply):
    best = int(np.argmax(reply["probabilities"]))
    probability = reply["probabilities"][best]
    label = data.FASHION_CLASSES[best]
    return Answer(label=label, probability=probability, version=reply["version"])


http = FastAPI(title="FashionMNIST", **about_http)


@serve.deployment(max_ongoing_requests=500, max_queued_requests=200, max_surge_percent=100)
@serve.ingress(http)
class Api:
    def __init__(self, model):
        self.model = model

    @http.post("/predict")
    async def predict(self, picture: Picture, batched: bool = True) -> Answer:
        pixels = np.array(picture.pixels, dtype=np.float32)
        method = self.model.predict_batched if batched else self.model.predict
        return to_answer(await ask(method, pixels))

    @http.post("/predict/png")
    async def predict_png(self, png: Png) -> Answer:
        return to_answer(await ask(self.model.predict_batched, decode(png)))


class Settings(BaseModel, extra="forbid"):  # a misspelt name is an error
    version: str = "1"
    folder: str | None = None  # of the model; None: the one of the course
    replicas: int = Field(2, ge=1)
    cpus: float = Field(0.4, ge=0)
    gpus: float = Field(0, ge=0)
    ingress: int = Field(1, ge=1)  # at least; one for every four replicas
    ingress_cpus: float = Field(0.1, ge=0)


def build(settings: Settings) -> serve.Application:
    ingress = max(settings.ingress, math.ceil(settings.replicas / 4))
    queue = max(1, 100 * settings.replicas // ingress)  # of each caller
    model = Model.options(
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=64,
        max_queued_requests=queue,
        max_surge_percent=50,
    )
    api = Api.options(
        num_replicas=ingress,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
    )
    folder = settings.folder or str(data.trained_model())
    return api.bind(model.bind(settings.version, folder))


application = build(Settings())  # for `serve build`, which wants an application
