"""The depth maps of DTU, as DSDMSR prepares them."""
