"""Doors to other evaluation harnesses: our models inside VLMEvalKit and lmms-eval, and files of questions and answers in their forms."""
