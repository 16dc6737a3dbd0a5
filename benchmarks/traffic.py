"""What the instructions of a Mixer's compiled step read and write, by what they do, counted from the program's text."""

import re

from tools.planning import compiler

# They move nothing.
FREE = ('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element')
PRODUCTS, ACTIVATIONS, REST = KINDS = ('matrix products, and what is fused into them', 'other loops over activations',
                                       'the rest: gradients, optimizer, loss')


def by_kind(text: str) -> dict[str, int]:
  """{kind: bytes} of a step. Copies into a core's fast memory, ahead of their use, are not counted; XLA's sum has them too."""
  multiplies = {match[1] for match in re.finditer(r'^%(\S+) [^\n]*\{\n(?:[^}\n][^\n]*\n)*?[^\n]* (?:convolution|dot)\(', text, re.M)}
  sizes, total = {}, dict.fromkeys(KINDS, 0)
  for line in text[text.index('\nENTRY'):].splitlines():
    match = re.match(r'\s+(?:ROOT )?%(\S+) = (.*?) ([\w-]+)\((.*?)\)', line)
    if not match:
      continue
    name, shape, opcode, operands = match.groups()
    sizes[name] = compiler.bytes_of(shape)
    if opcode in FREE or opcode.endswith(('-start', '-done')) or '"ConcatBitcast"' in line:
      continue
    moved = sizes[name] + sum(sizes.get(operand, 0) for operand in re.findall(r'%([\w.-]+)', operands))
    called = re.search(r'calls=%([\w.-]+)', line)
    kind = PRODUCTS if (called and called[1] in multiplies) or opcode in ('convolution', 'dot') else (
        ACTIVATIONS if re.search(r'op_name="[^"]*(Block|norm|stem)', line) else REST)
    total[kind] += moved
  return total
