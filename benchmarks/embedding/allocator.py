"""How ranks of these benchmarks get memory, in all ways alike.

glibc gives blocks of megabytes back to the kernel, and gets them page by page the next time. Rows that were looked up,
gradients and activations are such blocks, and up to a third of a step would be page faults. Kept, they cost what they
cost in an allocator of GPUs. Whole tables are larger, and are given back: all hosts have the memory of one machine.
"""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
