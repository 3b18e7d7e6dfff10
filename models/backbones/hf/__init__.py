"""Models of the `transformers` library as video-language backbones: dual encoders, VideoMAE, generative models."""
