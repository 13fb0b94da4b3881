"""Verilog of the units that decide area, and their synthesis: cycles and relative areas that rest on hardware descriptions of our own."""
