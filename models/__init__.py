"""What is learned: plain PyTorch models, their data, tasks and optimisers."""
