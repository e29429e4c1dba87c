"""Health of hosts: outlier detection, lost connections and unreachable hosts."""
