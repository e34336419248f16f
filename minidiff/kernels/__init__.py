"""Hot operations, one file each: the readable reference, faster twins, one choice per platform."""
