"""Where jobs run: one interface, Kubernetes (KubeRay) and Ray's Jobs API."""
