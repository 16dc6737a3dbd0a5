"""Metrics for Weights & Biases."""

import json
import sys
import uuid

from mixer import safe_io
from mixer import storage

FILE = 'wandb.json'  # in the work directory: the id of the run, which a later start resumes


class WandbWriter:
  """A run of a project. Of steps that a resumed run repeats, Weights & Biases keeps the first values; speeds alone differ.

  Raises:
    ValueError: if wandb does not begin a run, as without a login; with what to do.
  """

  def __init__(self, workdir, project: str):
    import wandb  # an extra
    path, config = workdir / FILE, workdir / 'config.json'
    if not path.exists():
      storage.write(path, json.dumps({'id': uuid.uuid4().hex[:12]}))
    try:
      self._run = wandb.init(project=project, name=workdir.name, id=safe_io.read_json_object(path)['id'], resume='allow',
                             config=safe_io.read_json_object(config) if config.exists() else None,
                             dir=None if storage.in_bucket(workdir) else str(workdir))
    except wandb.Error as error:
      raise ValueError(f'--wandb={project}: {" ".join(str(error).split())}. Log in with `wandb login`, or keep the metrics for '
                       '`wandb sync` with WANDB_MODE=offline') from error

  def write(self, step: int, values: dict[str, float]):
    self._run.log(values, step=step)

  def flush(self):
    """wandb stores what it gets by itself."""

  def close(self):
    self._run.finish(exit_code=int(sys.exc_info()[0] is not None))  # close is called while an error passes
