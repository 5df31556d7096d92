"""Jobs as KubeRay RayJobs, through the API server."""
