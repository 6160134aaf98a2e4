"""Questions and answers from masks, boxes, texts and captions: kinds, phrasings in two languages, and what no question reaches."""
