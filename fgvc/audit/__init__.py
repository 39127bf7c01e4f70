"""What is wrong with a data set: duplicates, labels, balance, boxes; a page, and corrections for the next build."""
