"""The names of the crops for evaluation and prediction, and the side to which images are resized before them."""

NAMES = ('paper_resize', 'paper_crop', 'antialiased', 'timm')  # of preprocess.EVALUATION_CROPS and of crops.CROPS
CUT_OFF = 8 / 7  # 256 for 224 pixels: paper, App. C
CUT_OFF_OF = {'antialiased': 1}  # of other crops: nothing of the shorter side is cut off


def resize_for(resolution: int, resize: int | None, crop: str) -> int:
  """The side before the crop, in pixels: `resize`, or by default in the crop's proportion to the resolution.

  Raises:
    ValueError: if it is smaller than the crop.
  """
  resize = resize or round(resolution * CUT_OFF_OF.get(crop, CUT_OFF))
  if resize < resolution:
    raise ValueError(f'--resize is {resize}, smaller than the crop: the model takes {resolution} x {resolution} pixels')
  return resize
