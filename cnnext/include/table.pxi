# How a kernel module hands its kernels over: a capsule each, as a plugin does, and the fields of its parameter struct
# in order, each 8 bytes ("q" int64_t or "d" double), from which Python packs the struct.
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint32_t
from libc.stdlib cimport malloc

from cnnext.plugin cimport CNX_ABI, CNX_KERNEL_CAPSULE, cnx_kernel, cnx_kernel_fn




cdef object kernel(const char *name, cnx_kernel_fn run):
    cdef cnx_kernel *entry = <cnx_kernel *>malloc(sizeof(cnx_kernel))   # lives as long as the process
    if entry == NULL:
        raise MemoryError(name)
    entry.abi = CNX_ABI
    entry.size = sizeof(cnx_kernel)
    entry.name = name
    entry.run = run
    return PyCapsule_New(entry, CNX_KERNEL_CAPSULE, NULL)


cdef list fields(dict zero):
    return [(name, "d" if isinstance(value, float) else "q") for name, value in zero.items()]
