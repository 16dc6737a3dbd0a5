"""What the instructions of a Mixer's compiled step read and write, by what they do, counted from the program's text."""

import re

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 's32': 4, 'u32': 4, 'f32': 4}
# They move nothing.
FREE = ('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element')
PRODUCTS, ACTIVATIONS, REST = KINDS = ('matrix products, and what is fused into them', 'other loops over activations',
                                       'the rest: gradients, optimizer, loss')


def by_kind(text: str) -> dict[str, int]:
  """{kind: bytes} of a step. Copies into a core's fast memory, ahead of their use, are not counted; XLA's sum has them too."""
  multiplies = {match[1] for match in re.finditer(r'^%(\S+) [^\n]*\{\n(?:[^}\n][^\n]*\n)*?[^\n]* (?:convolution|dot)\(', text, re.M)}
  shapes, total = {}, dict.fromkeys(KINDS, 0)
  for line in text[text.index('\nENTRY'):].splitlines():
    match = re.match(r'\s+(?:ROOT )?%(\S+) = (.*?) ([\w-]+)\((.*?)\)', line)
    if not match:
      continue
    name, shape, opcode, operands = match.groups()
    shapes[name] = _size(shape)
    if opcode in FREE or opcode.endswith(('-start', '-done')) or '"ConcatBitcast"' in line:
      continue
    moved = shapes[name] + sum(shapes.get(operand, 0) for operand in re.findall(r'%([\w.-]+)', operands))
    called = re.search(r'calls=%([\w.-]+)', line)
    kind = PRODUCTS if (called and called[1] in multiplies) or opcode in ('convolution', 'dot') else (
        ACTIVATIONS if re.search(r'op_name="[^"]*(Block|norm|stem)', line) else REST)
    total[kind] += moved
  return total


def _size(shape: str) -> int:
  """The bytes of 'f32[2,3]{1,0}' or of a tuple of such."""
  total = 0
  for dtype, sides in re.findall(r'\b(\w+)\[([\d,]*)\]', shape):
    elements = 1
    for side in filter(None, sides.split(',')):
      elements *= int(side)
    total += elements * BYTES.get(dtype, 0)
  return total
