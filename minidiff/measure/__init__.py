"""How good a trained model is: the judge, the exam of a CLIP, metrics, comparisons, and their pictures."""
