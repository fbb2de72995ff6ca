"""The life of a request between HTTP and a worker."""
