"""_capture"""
