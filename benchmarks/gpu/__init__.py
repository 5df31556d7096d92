"""``make gpu``: proves and measures on one GPU what CPUs cannot, in one command, whatever part of it there is time for.

A bare Python with torch 2.11 or newer, triton, NumPy, safetensors and jaxtyping is enough; nothing is installed.
"""
