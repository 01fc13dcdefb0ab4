"""_probe"""
