"""Parameters from and to other projects' files, and from one image resolution to another."""
