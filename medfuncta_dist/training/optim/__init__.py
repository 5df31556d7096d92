"""The outer step: DeepSpeed engine, optimisers, learning rate. The only room that imports deepspeed."""
