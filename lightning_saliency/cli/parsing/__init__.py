"""What all commands share: options and configuration files, networks by their names, errors."""
