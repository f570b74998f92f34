"""Pictures by address, where the operator allows it: `address` decides what may be asked, `connection` asks it."""
