import meshlib

with meshlib.channel("svc-a") as channel:
    echo = channel.unary_unary("/meshlib.testing.Echo/Unary")
    print(echo(b"hello", timeout=5))
