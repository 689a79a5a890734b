"""A second implementation of the sealed object, format version 1, written from the table in src/seal/header.rs
and sharing nothing with it. Prints the object that src/seal/tests.rs opens, and two values of its key functions.

Made with Python 3 and cryptography 48.0.0; everything is fixed, so it prints the same each time.
"""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

KEY = bytes(range(32))
CHUNK, PLAIN = 64, bytes(i * 7 % 256 for i in range(150))


def hkdf(key, purpose, context):
    prk = hmac.digest(b"cloister key derivation v1", key, "sha256")
    info = bytes([len(purpose)]) + purpose + context
    return hmac.digest(prk, info + b"\x01", "sha256")


def identifier(kind, random):
    unix_ms = 1_790_000_000_000
    return bytes([kind]) + unix_ms.to_bytes(6, "big") + bytes([random]) * 10


INSTALL, OBJECT, VERSION = identifier(0, 1), identifier(1, 2), 1
context = INSTALL + OBJECT + struct.pack("<Q", VERSION)
header = b"CLOISOBJ" + struct.pack("<HHIQQ", 1, 1, CHUNK, len(PLAIN), VERSION) + INSTALL + OBJECT
header += hkdf(KEY, b"object commitment", context)
header += hmac.digest(hkdf(KEY, b"object header", context), header, "sha256")
sealed = header
cipher = AESGCM(hkdf(KEY, b"object content", context))
chunks = [PLAIN[i:i + CHUNK] for i in range(0, len(PLAIN), CHUNK)]
for index, chunk in enumerate(chunks):
    nonce = bytes([index + 1]) * 12
    aad = hashlib.sha256(header).digest() + struct.pack("<QB", index, index + 1 == len(chunks))
    sealed += nonce + cipher.encrypt(nonce, chunk, aad)
print(sealed.hex())
print(hkdf(KEY, b"some purpose", b"some context").hex())
print(Argon2id(salt=bytes(range(16)), length=32, iterations=3, lanes=4, memory_cost=65536)
      .derive(b"correct horse battery staple").hex())
