"""Thin gRPC servicers: translate, delegate, translate back."""
