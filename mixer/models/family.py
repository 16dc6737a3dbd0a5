"""ModelFamily: all that the program knows about the models of one name.

Each model's file ends with its record, and families.py collects them. A new model is a file with a record, and a line
in families.py.
"""

from collections.abc import Callable
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer import trees

# Fields that only training reads, or that the parameters themselves imply.
TRAINING_ONLY_FIELDS = ('variant', 'dropout_rate', 'stochastic_depth', 'head_bias_init', 'param_dtype', 'scan', 'remat',
                        'platform')

# What timm's models of torchvision's and Facebook's recipes take: pixels of ImageNet's mean and deviation, and its crop.
IMAGENET_PIXELS = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpzNames:
  """The names of a family's arrays in published .npz files. Dicts of arrays are {'a/b/c': array}.

  Attributes:
    first_layer: a pattern of the names that the first layer's kernel has in them; None where it is ours.
    from_npz: published arrays -> ours. Arrays with other names stay.
    to_npz: the inverse, of ours.
  """
  first_layer: str | None = None
  from_npz: Callable[[dict], dict] = dict
  to_npz: Callable[[dict], dict] = dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimmNames:
  """The names and shapes of a family's arrays in timm, whose kernels are transposed.

  Attributes:
    pattern: of a name that only the arrays of this family have in timm.
    names: number of blocks -> {our name: timm's} of the arrays that correspond one to one.
    first_conv: the module of the first layer.
    block_pattern: of the beginning of names of a block's arrays, with its number as a group.
    architecture: our variant -> timm's name of the model, or None.
    from_timm: (timm's arrays, the file's metadata) -> arrays with timm's names and shapes, or with ours.
    to_timm: our arrays -> (arrays with our names, or with timm's names and shapes; metadata of the file).
    tanh_gelu: whether our GELU is the tanh approximation of timm's.
    pixels: {pattern of a file's name: mean, std and the like of timm's pretrained_cfg}, for files without config.json.
    fields: of timm's models, where the arrays do not show them.
  """
  pattern: str
  names: Callable[[int], dict[str, str]]
  first_conv: str
  architecture: Callable[[str], str | None]
  block_pattern: str = r'blocks\.(\d+)\.'
  from_timm: Callable[[dict, dict], dict] = lambda arrays, metadata: arrays
  to_timm: Callable[[dict], tuple[dict, dict]] = lambda arrays: (arrays, {})
  tanh_gelu: bool = True
  pixels: dict[str, dict] = dataclasses.field(default_factory=dict)
  fields: dict[str, object] = dataclasses.field(default_factory=dict)


def timm_names(norms: dict[str, str], layers: dict[str, str]) -> dict[str, str]:
  """{our array: timm's} of {our module: timm's} of LayerNorms, and of layers with a kernel and a bias."""
  arrays = {f'{ours}/scale': f'{timms}.weight' for ours, timms in norms.items()}
  arrays |= {f'{ours}/kernel': f'{timms}.weight' for ours, timms in layers.items()}
  return arrays | {f'{ours}/bias': f'{timms}.bias' for ours, timms in (norms | layers).items()}


def size_in(shapes: dict) -> Callable:
  """(name, axis, default) -> the size of an array's axis in {name: shape}, or the default if it has none."""
  return lambda name, axis, default: shapes[name][axis] or default if len(shapes.get(name, ())) > axis else default


def check_shapes(shapes: dict, expected: dict, title: str):
  """Raises a ValueError with the arrays of {name: shape} that are missing, unexpected or of another shape, if any are."""
  if unlike := trees.compare(shapes, expected, 'loaded', f'a {title}'):
    raise ValueError(f'the arrays are not those of a {title}:{unlike}')


def shapes_of(model: type[nn.Module], fields: dict, patches: int, block: str) -> dict:
  """{name: shape} of the parameters of a model of patches, whose blocks, named block0/, block1/, ..., are all alike."""
  # So one is traced. A row of patches has any number of them.
  image = jax.ShapeDtypeStruct((1, fields['patch_size'], fields['patch_size'] * patches, 3), jnp.float32)
  one = trees.shapes(jax.eval_shape(model(**{**fields, 'num_blocks': 1}).init, jax.random.key(0), image)['params'])
  of_block = {name: shape for name, shape in one.items() if name.startswith(f'{block}0/')}
  return {name: shape for name, shape in one.items() if name not in of_block} | {
      f'{block}{i}/{name.removeprefix(f"{block}0/")}': shape
      for i in range(fields['num_blocks']) for name, shape in of_block.items()}


def side_of_grid(patches: int, takes: str) -> int:
  """The square root of a number of patches, or a ValueError that begins with what takes them."""
  side = math.isqrt(patches)
  if side**2 != patches:
    raise ValueError(f'{takes}, which is not a square number; only models of square images are supported')
  return side


def no_resize(params: dict, like: dict, method: str | None) -> dict:
  """`ModelFamily.resize` of models that take images of any size as they are."""
  del like, method
  return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFamily:
  """The models of one name. `params` are nested dicts of arrays, or of anything else that has a shape.

  Attributes:
    name: config.model.name.
    title: what people call the models, before the variant.
    model: the class.
    variant_fields: the name of a variant -> fields of `model`.
    documented_by: classes whose docstrings also say what the fields of `model` mean.
    training_only_fields: fields that only training reads, or that the parameters imply.
    fields_for_resolution: side of the images in pixels -> fields of a model for them, in addition to its variant's.
    finetune_config: the config that fine-tunes a variant by the paper's recipe, or None.
    default_resolution: fields -> the side in pixels of the images to evaluate on, where the parameters take any.

    fields_from_params: params -> num_classes and `sizes`, or a ValueError that shows the arrays that do not fit. None
      where weights of these models are not read from files; the fields below are then not used.
    sizes: the fields other than num_classes that the parameters imply.
    fields_in_params: a model -> what fields_from_params returns for its parameters.
    array_pattern: of the beginning of names that only arrays of this family have.
    block_pattern: of the beginning of names of a block's arrays, with its number as a group.
    variant_of: fields -> the name of the variant, or None.
    resolution_of: params -> the side in pixels of the images that they are for; None where they take any.
    stem: the module of the first layer.
    stem_is_linear: whether the first layer pads nothing, so that it can take pixels of another scale.
    head: the modules of the head.
    tokens: the module whose outputs [B, S, C] the features are pooled from; '' where there are no tokens.
    any_resolution: (name, shape) of an array -> the shape without what depends on the resolution.
    resize: (params, params of the shapes to fit, method) -> params for images of another resolution.
    resize_methods: the methods that `resize` takes, other than None: config.start_from.token_mixing.
    token_filters: (params, number of a block) -> its token mixing's weights over the patches. [units, patches]
    npz, timm: names in files.
  """
  name: str
  title: str
  model: type[nn.Module]
  variant_fields: Callable[[str], dict]
  documented_by: tuple[type, ...] = ()
  training_only_fields: tuple[str, ...] = TRAINING_ONLY_FIELDS
  fields_for_resolution: Callable[[int], dict] = lambda resolution: {}
  finetune_config: str | None = None
  default_resolution: Callable[[dict], int] = lambda fields: 224

  fields_from_params: Callable[[dict], dict] | None = None
  sizes: tuple[str, ...] = ()
  fields_in_params: Callable[[nn.Module], dict] | None = None
  array_pattern: str = ''
  block_pattern: str = ''
  variant_of: Callable[[dict], str | None] = lambda fields: None
  resolution_of: Callable[[dict], int] | None = None
  stem: str = 'stem'
  stem_is_linear: bool = True
  head: tuple[str, ...] = ('head',)
  tokens: str = ''
  any_resolution: Callable[[str, tuple], object] = lambda name, shape: shape
  resize: Callable[[dict, dict, str | None], dict] = no_resize
  resize_methods: tuple[str, ...] = ()
  token_filters: Callable | None = None
  npz: NpzNames = NpzNames()
  timm: TimmNames | None = None
