"""_forward"""
