"""The Hugging Face Hub: its weights, which `huggingface_hub` (the extra hub) downloads and keeps, and cards for ours."""

import json
import pathlib
import re

from mixer import models
from mixer import trees

PREFIX = 'hf-hub:'  # as timm writes it
FILES = ['model.safetensors', 'config.json']


def fetch(name: str) -> tuple[pathlib.Path, str]:
  """A folder with the FILES of one commit of a model, downloaded where the cache lacks them; and the commit's hash.

  Without a connection, or with HF_HUB_OFFLINE=1, the cache's copy of the revision is used.

  Args:
    name: 'hf-hub:OWNER/NAME' or 'hf-hub:OWNER/NAME@REVISION', a branch, tag or commit; 'main' by default.

  Raises:
    OSError, ValueError: in one line, naming the model.
  """
  if not (match := re.fullmatch(rf'{PREFIX}([\w.-]+/[\w.-]+)(?:@([^@\s]+))?', name)):
    raise ValueError(f'{name} is not {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION')
  repository, revision = match.groups()
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError as error:
    raise OSError(f'{name} needs huggingface_hub: pip install "mlp-mixer-jax[hub]", or in a checkout pip install -e '
                      '".[hub]" -c requirements.lock') from error
  try:
    folder = pathlib.Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=FILES))
  except errors.GatedRepoError as error:
    raise OSError(f'{name} is gated: accept its terms on its page, and log in by `hf auth login`') from error
  except errors.RepositoryNotFoundError as error:
    raise OSError(f'the Hub has no model {repository}; if it is private, log in by `hf auth login`') from error
  except errors.RevisionNotFoundError as error:
    raise OSError(f'{repository} has no revision {revision}; leave out @{revision} for its newest') from error
  except errors.LocalEntryNotFoundError as error:
    cause = _first_line(error.__cause__ or error)
    raise OSError(f'{name} is not in the cache, and cannot be downloaded: {cause}. Connect, or download the model by '
                  f'`hf download {repository} --local-dir FOLDER` elsewhere, and pass the folder') from error
  except errors.HFValidationError as error:
    raise ValueError(f'{name} is no name of a model: {_first_line(error)}') from error
  except Exception as error:  # the Hub's errors, the connection's, and those of the disk have no class in common
    raise OSError(f'{name} cannot be downloaded: {_first_line(error)}') from error
  return folder, folder.name


def _first_line(error) -> str:
  return str(error).strip().split('\n')[0].rstrip('.') or type(error).__name__


def card(weights, architecture: str | None, results: dict) -> str:
  """README.md of a model's folder on the Hub.

  Args:
    weights: a `mixer.weights.Weights`.
    architecture: timm's name of the model, or None.
    results: of its evaluation, {'test/top1': 0.9, ...}, or {}.
  """
  side, classes = weights.resolution, weights.model['num_classes']
  tags = ['image-classification' if classes else 'image-feature-extraction', weights.model['name'].replace('_', '-')]
  header = [*(['library_name: timm'] * bool(architecture)), f'pipeline_tag: {tags[0]}', f'tags: {json.dumps([*tags, "jax"])}']
  parameters = trees.count(trees.variables(weights.params)['params'])
  facts = {'parameters': f'{parameters:,}', 'classes': f'{classes:,}' if classes else 'none, without a head',
           'images': f'{side} x {side} pixels in [-1, 1] (mean 0.5, std 0.5), {weights.crop} from {weights.with_crop().resize}',
           'loss': weights.loss,
           **{name.replace('|', '\\|'): f'{value:.4f}' if name.endswith('/loss') else f'{value:.2%}' if value <= 1 else f'{value:,}'
              for name, value in results.items()}}
  names = models.LOADABLE[weights.model['name']].timm
  tanh = bool(names and names.tanh_gelu)
  timm = '\n'.join([
      '', f'In timm, as `{architecture}`' + (", whose GELU is exact. The authors' is its tanh approximation, which `act_layer` "
                                            'gives:' if tanh else ':'), '', '```python',
      'import functools, timm, torch' if tanh else 'import timm', '',
      *(["tanh = functools.partial(torch.nn.GELU, approximate='tanh')"] * tanh),
      f"model = timm.create_model('hf-hub:OWNER/NAME', pretrained=True{', act_layer=tanh' * tanh})  # or 'local-dir:FOLDER'",
      '```', ''])
  return '\n'.join(['---', *header, '---', '', f'# {models.describe(weights.model)}', '', '| | |', '| --- | --- |',
                    *(f'| {name} | {value} |' for name, value in facts.items()), '', '## Use', '',
                    'In JAX, with mlp-mixer-jax:', '', '```python', 'import mixer', '',
                    "weights = mixer.load('hf-hub:OWNER/NAME')  # or a folder with these files",
                    f"weights.{'predict' if classes else 'features'}(images)", '```', *([timm] * bool(architecture))])
