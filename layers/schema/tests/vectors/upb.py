"""Says for every payload whether upb (PyPI protobuf) reads it: the peer of tests/upb.rs.

python upb.py <descriptor set> <message>; hex payloads on stdin, one a line; "1" or "0" on stdout, one a line.
"""

import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError


def main():
    if api_implementation.Type() != "upb":
        sys.exit("this protobuf is not built on upb")
    with open(sys.argv[1], "rb") as file:
        files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(sys.argv[2]))
    for line in sys.stdin:
        try:
            kind.FromString(bytes.fromhex(line.strip()))
            sys.stdout.write("1\n")
        except DecodeError:
            sys.stdout.write("0\n")


main()
