"""Exercise checks, one file per lesson; the tests use the same ones."""
