"""Billing 电费: the pure rules from frozen readings to bills, balances and supply control. No clock, no store, no wire.

    from consumers.billing.bill import BillInputs, compute
    from consumers.billing.policies import default_policies

Each module states its rules by number. `compute` makes a bill; `audit.settle` enters it; `prepaid` tells the balance
and its stage; `supply.step` follows an arrears order to the cut and back.
"""
