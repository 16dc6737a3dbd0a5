"""The images: sources, crops and augmentation."""
