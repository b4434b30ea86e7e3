"""The hints of the capstone, for each step: where to read, what to call, and a sketch."""

from __future__ import annotations

HINTS: dict[int, tuple[str, str, str]] = {
    1: (
        "Read in notebook 03 the sections 'Blocks and batches' and 'Broken rows'. A row here is a part of a work, so\n"
        "a broken part is a row to leave out. Ask yourself what must never be in both datasets, if the accuracy on\n"
        "the second one is to say something about works that the model has not seen.",
        "ray.data.read_parquet(files, override_num_blocks=len(files)) reads. dataset.flat_map(function) makes any\n"
        "number of rows from one: its function returns a list of dicts, and an empty one for a row to leave out.\n"
        "fn_kwargs={...} gives the function more arguments.",
        "def make_passages(files):\n"
        "    parts = ray.data.read_parquet(files, ...)\n"
        "    train = parts.flat_map(cut, fn_kwargs={'held_out': False})\n"
        "    held_out = parts.flat_map(cut, fn_kwargs={'held_out': True})\n"
        "    return train, held_out\n\n"
        "cut(row, held_out) returns [] for a broken part, and for one whose work is on the other side. Otherwise it\n"
        "calls word_ids once, and returns a dict for each 20 of its numbers.",
    ),
    2: (
        "Read in notebook 04 'Metrics over all workers', 'Checkpoints' and 'The training function', and your own\n"
        "solution of its exercise 3. Write down what has to survive if a worker dies, and who saves it.",
        "ray.train.torch.prepare_model, torch.distributed.all_reduce, ray.train.get_checkpoint,\n"
        "ray.train.get_context().get_world_rank() and .get_world_size(), ray.train.Checkpoint.from_directory,\n"
        "ray.train.report(metrics, checkpoint=...).",
        "def train_author(config):\n"
        "    model = prepare_model(build_model()); optimizer = Adam(...); done = 0\n"
        "    if there is a checkpoint: load model.module, optimizer and done, in every worker\n"
        "    for epoch in range(done + 1, config['epochs'] + 1):\n"
        "        rows = train_epoch(model, optimizer, batches of every second row of train, from the rank on)\n"
        "        counts = count_right(model, batches of its share of held_out), summed over the workers\n"
        "        with a temporary folder: rank 0 writes model.pt and a file with the rest; all report\n"
        "        config['after_epoch'](epoch)",
    ),
    3: (
        "Read the first page of notebook 05 again, and its section 'One hundred trials'. What stops a bad trial?",
        "tune.report, tune.with_parameters (for the arrays), tune.loguniform,\n"
        "tune.schedulers.ASHAScheduler(max_t=...),\n"
        "tune.TuneConfig(metric=..., mode=..., num_samples=..., scheduler=..., reuse_actors=True),\n"
        "tune.RunConfig(storage_path=..., verbose=0), tune.Tuner(...).fit().",
        "def trial(config, train, held_out):\n"
        "    model and optimizer as in step 2, but without ray.train\n"
        "    for each of 9 epochs: train_epoch on batches(train), count_right on batches(held_out), tune.report\n\n"
        "def search(train, held_out, storage):\n"
        "    trainable = tune.with_parameters(trial, train=train, held_out=held_out)\n"
        "    return tune.Tuner(trainable, param_space={'lr': ...}, tune_config=..., run_config=...).fit()",
    ),
    4: (
        "Read in notebook 06 the sections 'What clients get wrong' and 'The model'. What belongs into __init__, and\n"
        "what into the type of the request?",
        "@serve.deployment(num_replicas=2, ray_actor_options={'num_cpus': 0.5}), @serve.ingress(author_http),\n"
        "@author_http.post('/'), BaseModel, Field(max_length=..., pattern=...),\n"
        "model.load_state_dict(torch.load(path, weights_only=True)), softmax(dim=1).",
        "class Passage(BaseModel):\n"
        "    text: str = Field(max_length=2000, pattern='[A-Za-z]')      # at least one letter\n\n"
        "__init__ loads f'{folder}/model.pt' into build_model().\n"
        "The method makes a tensor of shape (1, words) of word_ids(passage.text), asks the model, and returns the\n"
        "author with the larger share, and that share.",
    ),
    5: (
        "Read in notebook 04 'The run' and 'A worker dies', and in 06 how an application gets its name and its route.",
        "dataset.take_batch(a large number), which returns a dict of arrays,\n"
        "ray.train.torch.TorchTrainer(train_author, train_loop_config=..., scaling_config=..., run_config=...),\n"
        "ray.train.ScalingConfig(num_workers=2, resources_per_worker={'CPU': 0.5}),\n"
        "ray.train.RunConfig(name=..., storage_path=..., failure_config=ray.train.FailureConfig(max_failures=1)),\n"
        "result.get_best_checkpoint('val_accuracy', mode='max').path, serve.run(..., name=..., route_prefix=...).",
        "def pipeline(files, config, storage):\n"
        "    train, held_out = make_passages(files)\n"
        "    config = {**config, 'train': arrays of train, 'held_out': arrays of held_out}\n"
        "    result = TorchTrainer(train_author, train_loop_config=config, ...).fit()\n"
        "    serve.run(Author.bind(the folder of the best checkpoint), name='author', route_prefix='/author')\n"
        "    return result",
    ),
}
