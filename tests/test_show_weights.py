import numpy as np
import PIL.Image
import pytest

import example_weights
from mixer.run import plots
from mixer import weights
from mixer.weights import npz
from tools import show_weights


def wave(cycles, side):
  return np.cos(2 * np.pi * cycles * (np.arange(side)[:, None] + 0 * np.arange(side)) / side + 0.5)


@pytest.fixture(scope='module')
def planted(tmp_path_factory):
  """A Mixer of 8 x 8 patches of 4 x 4 pixels, and its file: in block 1 unit j, or its negative, has j // 2 cycles."""
  fields = dict(example_weights.FIELDS, num_blocks=4, tokens_mlp_dim=6, hidden_dim=3)
  params = example_weights.params(fields, shape=(32, 32))
  units = [(1 - 2 * (unit % 2)) * wave(unit // 2, 8) for unit in (5, 2, 0, 4, 1, 3)]
  params['MixerBlock_1']['token_mixing']['Dense_0']['kernel'] = np.array(units, np.float32).reshape(6, 64).T
  filters = [wave(cycles, 4)[..., None] * [1, 0.5, -1] for cycles in (2, 0, 1)]
  params['stem']['kernel'] = np.moveaxis(np.array(filters, np.float32), 0, -1)
  path = tmp_path_factory.mktemp('planted') / 'planted.npz'
  npz.write(params, path)
  return path, weights.load(path)


def test_units_are_rows_of_w1_as_maps_over_the_patches_in_order_and_pairs(planted):
  maps, cosines = show_weights.token_mixing(planted[1], 1)
  assert maps.shape == (6, 8, 8)
  for pair in range(3):
    np.testing.assert_allclose(maps[2 * pair], -maps[2 * pair + 1], atol=1e-6)
    np.testing.assert_allclose(abs(maps[2 * pair]), abs(wave(pair, 8)), atol=1e-6)
  np.testing.assert_allclose(cosines, -1, atol=1e-6)


def test_filters_of_the_stem_are_sorted(planted):
  filters = show_weights.stem(planted[1])
  expected = np.array([wave(cycles, 4)[..., None] * [1, 0.5, -1] for cycles in (0, 1, 2)])
  np.testing.assert_allclose(filters, expected, atol=1e-6)


@pytest.mark.parametrize('flag, blocks', [([], [0, 1, 2]), (['--blocks=3,1,3'], [3, 1])])
def test_a_picture_for_the_stem_and_each_block(planted, tmp_path, capsys, flag, blocks):
  show_weights.main([f'--weights={planted[0]}', f'--out={tmp_path / "new/folder"}', *flag])
  names = ['stem.png', *(f'token_mixing_{block}.png' for block in blocks)]
  assert sorted(path.name for path in (tmp_path / 'new/folder').iterdir()) == sorted(names)
  assert all(PIL.Image.open(tmp_path / 'new/folder' / name).size[0] > 1000 for name in names)
  output = capsys.readouterr().out
  assert 'stem.png: 3 filters of 4 x 4 pixels\n' in output
  if 1 in blocks:
    assert 'token_mixing_1.png: 6 units of 8 x 8 patches; the median cosine with the nearest inverse is -1.00' in output


@pytest.mark.parametrize('flag, text', [
    ('--blocks=0,4', "error: --blocks has '4'; this model has the blocks 0 to 3"),
    ('--blocks=-1', "error: --blocks has '-1'; this model has the blocks 0 to 3"),
    ('--weights=nowhere.npz', 'error: nowhere.npz does not exist'),
])
def test_what_is_not_there_is_named(planted, tmp_path, flag, text):
  with pytest.raises(SystemExit, match=text):
    show_weights.main([f'--weights={planted[0]}', f'--out={tmp_path / "out"}', flag])
  assert not (tmp_path / 'out').exists()


def test_other_kinds_of_models_have_a_stem_and_no_token_mixing():
  vit = weights.Weights(params={'embedding': {'kernel': np.eye(48).reshape(4, 4, 3, 48)}}, model={'name': 'vit'},
                        resolution=8, loss='softmax_xent', class_names=None, source='a ViT')
  assert show_weights.stem(vit).shape == (48, 4, 4, 3)
  assert show_weights.chosen(None, vit) == []
  with pytest.raises(ValueError, match="--blocks is 0, and a model of the kind 'vit' has no token-mixing MLPs; drop it"):
    show_weights.chosen('0', vit)


def colours_of(path, title_height=40):
  """All colours in a picture below its title."""
  pixels = np.asarray(PIL.Image.open(path).convert('RGB'))[title_height:]
  return {tuple(map(int, pixel)) for pixel in pixels.reshape(-1, 3)}


@pytest.mark.slow
def test_each_map_is_scaled_on_its_own(tmp_path):
  signed = np.array([[[-1., 0], [0, 1]], [[-1e-3, 0], [0, 1e-3]]])
  plots.tiles(signed, 'two', tmp_path / 'signed.png', columns=2)
  assert colours_of(tmp_path / 'signed.png') >= {(103, 0, 31), (5, 48, 97)}  # the ends of RdBu: most, least
  corner = np.asarray(PIL.Image.open(tmp_path / 'signed.png').convert('RGB'))[50, 20]
  assert corner[2] > corner[0]  # of the first map, a negative weight: blue
  plots.tiles(signed[1:], 'one', tmp_path / 'small.png', columns=2)
  assert colours_of(tmp_path / 'small.png') == colours_of(tmp_path / 'signed.png')
  coloured = np.full((1, 1, 2, 3), 5.)
  coloured[0, 0, 1] = 7, 5, 5
  plots.tiles(coloured, 'colours', tmp_path / 'coloured.png', columns=1)
  assert colours_of(tmp_path / 'coloured.png') == {(255, 255, 255), (0, 0, 0), (255, 0, 0)}
  plots.tiles(np.zeros((3, 2, 2)), 'nothing', tmp_path / 'nothing.png')
