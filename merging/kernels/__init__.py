"""Loops over entries that do in one pass what torch does in many; numba compiles them, and this is its only home.

They are for processors alone, and for bfloat16 and float32. Products and sums are rounded one by one as torch rounds
them (no fused multiply-add, no reordering of what is not said to be a plain reduction), so that a merge has the same
bits with them and without, on every machine.
"""
