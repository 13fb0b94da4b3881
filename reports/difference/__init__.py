"""Why one simulated machine is faster than another: cycles by cause and energy by unit, adding up exactly."""
