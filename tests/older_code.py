"""What older code says today: one line for each row of notebooks/reference/older_code.ipynb.

A row is found by the last line of its older code, in the cell with the tag. Of its answer, what stands before the first
colon must be the same: the type of the error, or what the line gives. tests/expectations.py makes an expectation of
each row, so a new version of Ray that changes one turns the run of the notebook red.
"""

from __future__ import annotations

NOTEBOOK = "reference/older_code"
# Tag of the cell -> last line of the older code -> beginning of what it says.
ANSWERS: dict[str, dict[str, str]] = {
    "starting": {
        'ray.init(redis_address="127.0.0.1:6379")': "RuntimeError",
        "ray.init(local_mode=True)": "RuntimeError",
        'ray.init(storage="results")': "RuntimeError",
        "ray.init(_memory_monitor_refresh_ms=100)": "RuntimeError",
        '"running" if ray.is_initialized else "not running"': "gives 'running'",
    },
    "started": {
        "ray.init(num_cpus=4)": "RuntimeError",
        "from ray.air import Checkpoint": "ImportError",
        "import ray.ml": "ModuleNotFoundError",
        "from ray.util.sgd.torch import TorchTrainer": "DeprecationWarning",
        "from ray import workflow": "RuntimeError",
        "ray.tasks()": "AttributeError",
    },
    "tasks": {
        "add(1, 2)": "TypeError",
        "ray.get(process_data.remote([1, 2]))": "RayTaskError(NameError)",
        "def halves(items): return items[:1], items[1:]": "ValueError",
    },
    "actors": {
        "Counter()": "TypeError",
        "counter.increment()": "TypeError",
        "class Robust: pass": "ValueError",
        "Counter.options(detached=True).remote()": "ValueError",
        "ray.actors()": "AttributeError",
    },
    "objects": {
        "ray.get(total.remote(matrix_ref))": "RayTaskError(ValueError)",
        "ray.get(matrix_ref)[0, 0] = 5": "ValueError",
        "ray.internal.free([matrix_ref])": "AttributeError",
        "ray.register_custom_serializer(slice, serializer=str, deserializer=eval)": "AttributeError",
    },
    "data": {
        "ds.map(lambda x: 2 * x).take(1)": "RayTaskError(UserCodeException)",
        'ds.map_batches(lambda batch: list(batch["id"])).count()': "RayTaskError(ValueError)",
        'ds.filter(lambda row: row["id"] > 3).count()': "gives 2, with a UserWarning",
        'ds.filter(expr="id > 3").count()': "gives 2, with a DeprecationWarning",
        "numbers = ray.data.range(6, parallelism=2)": "works, with the message",
        'ray.data.read_csv(f"{folder}/*.csv")': "FileNotFoundError",
    },
    "data-removed": {
        'ds.map_batches(Double, compute="actors").take(1)': "ValueError",
        "ds.to_torch(batch_size=2)": "AttributeError",
        "ds.to_huggingface()": "AttributeError",
        "next(iter(ds.iter_batches(prefetch_blocks=2)))": "TypeError",
    },
    "data-pipelines": {
        "ds.window(blocks_per_window=2)": "AttributeError",
        "ds.repeat(3)": "AttributeError",
        "ds.fully_executed()": "AttributeError",
        "from ray.data.dataset_pipeline import DatasetPipeline": "ModuleNotFoundError",
        "from ray.data.preprocessors import BatchMapper": "ImportError",
        "ray.data.range_arrow(6)": "AttributeError",
    },
    "train": {
        "TorchTrainer(print, scaling_config=air)": "ValueError",
        'train.ScalingConfig(num_workers=2, trainer_resources={"CPU": 0})': "DeprecationWarning",
        "train.RunConfig(local_dir=folder)": "TypeError",
        'train.RunConfig(stop={"epoch": 2}, verbose=1)': "DeprecationWarning",
        "train.FailureConfig(fail_fast=True)": "DeprecationWarning",
    },
    "train-removed": {
        'TorchTrainer.restore("results/run")': "DeprecationWarning",
        "TorchTrainer(print, resume_from_checkpoint=last)": "DeprecationWarning",
        "TorchTrainer(print, preprocessor=None)": "TypeError",
        'train.Checkpoint.from_dict({"epoch": 1})': "AttributeError",
        "train.CheckpointConfig(checkpoint_at_end=True)": "DeprecationWarning",
        "train.save_checkpoint(epoch=1)": "AttributeError",
        "from ray.train import Trainer": "ImportError",
        "from ray.train.batch_predictor import BatchPredictor": "ModuleNotFoundError",
    },
    "train-run": {
        'torch.distributed.init_process_group("nccl")': "ValueError",
        "list(model.module.state_dict())": "AttributeError",
        'session.report({"loss": 1.0})': "gives None, with a UserWarning",
        "train.report(loss=1.0)": "TypeError",
        "train.world_rank()": "AttributeError",
        "train.get_context().get_trial_name()": "DeprecationWarning",
        "train.torch.accelerate(amp=True)": "DeprecationWarning",
    },
    "train-result": {
        "result.metrics": "gives None",
    },
    "tune-run": {
        "tune.report(val_accuracy=0.9)": "TypeError",
        'ray.train.report({"val_accuracy": 0.9})': "DeprecationWarning",
        'session.report({"val_accuracy": 0.9})': "gives None, with a RayDeprecationWarning",
        "with tune.checkpoint_dir(step=1) as folder: pass": "AttributeError",
        "tune.get_trial_id()": "AttributeError",
    },
    "tune": {
        "type(older_run).__name__": "gives 'ExperimentAnalysis'",
        "older_run.best_config": "ValueError",
        "tune.Tuner(trial, tune_config=goal, run_config=run).fit()": "ValueError",
        "tune.Tuner(trainer, run_config=run).fit()": "TuneError",
        "tune.Tuner(trial, run_config=other_run).fit()": "AttributeError",
    },
    "tune-removed": {
        "tune.RunConfig(local_dir=folder)": "DeprecationWarning",
        'tune.Tuner(trial, resources_per_trial={"cpu": 1})': "TypeError",
        "from ray.tune.suggest.optuna import OptunaSearch": "ModuleNotFoundError",
        "from ray.tune.search.skopt import SkOptSearch": "ModuleNotFoundError",
        "from ray.tune.integration.torch import DistributedTrainableCreator": "ModuleNotFoundError",
        "from ray.tune.sklearn import TuneSearchCV": "ModuleNotFoundError",
    },
    "serve": {
        'serve.deployment(route_prefix="/predict")': "TypeError",
        'Model.deploy("model.pt")': "AttributeError",
        'Model("model.pt")': "TypeError",
        "serve.deployment(max_concurrent_queries=8)": "TypeError",
        'Model.options(version="2")': "ValueError",
    },
    "serve-removed": {
        "Model.options(num_replicas=2, autoscaling_config=scaling)": "ValueError",
        "AutoscalingConfig(target_num_ongoing_requests_per_replica=10).target_ongoing_requests": "gives 2",
        'serve.get_deployment("Model")': "AttributeError",
        "serve.list_deployments()": "AttributeError",
        'serve.create_backend("model", Model)': "AttributeError",
        "from ray.serve.drivers import DAGDriver": "ModuleNotFoundError",
        "from ray.serve.http_adapters import json_request": "ModuleNotFoundError",
    },
    "serve-requests": {
        'requests.post(f"{url}/older", json={"input": [1, 2]}).text': "gives '{}'",
        'requests.post(f"{url}/older", data="no JSON").status_code': "gives 500",
        'requests.post(f"{url}/older", json={"text": [1, 2]}).status_code': "gives 200",
        'ray.get(handle.remote("x"))': "ValueError",
    },
    "serve-model": {
        'torch.load(f"{folder}/model.pt")': "UnpicklingError",
    },
    "llm-arguments": {
        "from ray.train.huggingface import HuggingFaceTrainer": "ImportError",
        'TrainingArguments(folder, use_cpu=True, evaluation_strategy="epoch")': "TypeError",
        "TrainingArguments(folder, no_cuda=True)": "TypeError",
        "TrainingArguments(folder, use_cpu=True, overwrite_output_dir=True)": "TypeError",
        "TrainingArguments(folder, use_cpu=True, warmup_ratio=0.1)": "TypeError",
        'TrainingArguments(folder, use_cpu=True, deepspeed="deepspeed_config.json")': "ValueError",
    },
    "llm-model": {
        "model = AutoModelForCausalLM.from_pretrained(path, **options)": "works, with the message",
        'AutoModelForCausalLM.from_pretrained("./final_model")': "OSError",
    },
    "llm-tokenizer": {
        "AutoTokenizer.from_pretrained(folder).vocab_size": "gives 0",
    },
    "llm-data": {
        "ray.data.from_huggingface(splits)": "DeprecationWarning",
        "texts.train": "AttributeError",
        'texts.map_batches(older_tokens, batch_format="pandas").take(1)': "RayTaskError(UserCodeException)",
    },
    "llm-limits": {
        "new_tokens(max_length=12)": "gives 5",
        'first_alike("right")': "gives False, with the message",
    },
    "llm-trainer": {
        "Trainer(model, arguments, tokenizer=tokenizer)": "TypeError",
        "Trainer(model, arguments, train_dataset=rows).train().global_step": "ValueError",
    },
}
