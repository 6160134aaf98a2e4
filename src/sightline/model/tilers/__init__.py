"""Published ways to cut a picture into crops, one module per idea. All are arithmetic on sizes."""
