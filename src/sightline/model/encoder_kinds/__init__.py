"""Vision towers that are no plain ViT of one size, one module per idea: rotary positions, canvases of tiles, convolutions, maps of several stages."""
