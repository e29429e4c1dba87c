"""The blocks of docs/howto/service-config.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib

config = {
    "loadBalancingConfig": [{"least_request_experimental": {"choiceCount": 3}}, {"round_robin": {}}],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "shop.Catalogue"}],
            "timeout": "2s",
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        {"name": [{"service": "shop.Catalogue", "method": "Export"}], "timeout": "60s"},
    ],
}
channel = meshlib.channel("svc-a", service_config=config)
channel.close()

# block 2
import json

channel = meshlib.insecure_channel("svc-a", options=[("grpc.service_config", json.dumps(config))])
channel.close()
