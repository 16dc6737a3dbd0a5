"""Paths in a work directory that several modules share. Imports nothing slow, as Orbax is."""


def arrays_manifest(checkpoint):
  """The file that Orbax writes last into a checkpoint's folder, when the arrays of all processes are merged."""
  return checkpoint / 'default' / 'manifest.ocdbt'
