#!/bin/sh
# One shell worker: adds 1 to the number in the ledger, ROUNDS times, under the lock or without it.
name=$1 ledger=$2 rounds=$3 mode=$4

if [ "$mode" = update ]; then # inside `dlock run`
  waited=$(( ($(date +%s%N) - ASKED) / 100000 ))
  value=$(cat "$ledger")
  sleep 0.002 # the work, in which somebody else could write
  echo $((value + 1)) >"$ledger"
  echo "$name ${DLOCK_TOKEN:-0} $((waited / 10)).$((waited % 10)) $((value + 1))"
  exit
fi

while [ "$rounds" -gt 0 ]; do
  ASKED=$(date +%s%N)
  export ASKED
  if [ "$mode" = unlocked ]; then
    "$0" "$name" "$ledger" 0 update
  else
    dlock run --ttl 2 demo:ledger -- "$0" "$name" "$ledger" 0 update
  fi
  rounds=$((rounds - 1))
done
