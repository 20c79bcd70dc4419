"""The built modules. Private: their names and contents may change with every release."""
