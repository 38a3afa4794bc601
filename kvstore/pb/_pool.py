"""The descriptor pool of this package's generated messages.

Not protobuf's default pool: other etcd clients register the same names there (see
``proto/generate.py``).
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
