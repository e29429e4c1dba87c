class HealthCheckRequest:
    def __init__(self, service: str = ...) -> None: ...

class HealthCheckResponse:
    status: int
