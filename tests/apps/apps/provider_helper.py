PROVIDER = "provider"
