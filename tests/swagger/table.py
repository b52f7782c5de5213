#!/usr/bin/env python3
"""Makes the table of what answers of the API look like, of the public description of it.

    tests/swagger/table.py docker-v1.51.yaml > engine/tests/clients/answers.txt

The file is Docker's (`docs/api/v1.51.yaml` of the project's sources); the table is facts of it only: for
each model its fields, with their types, which are always there and the values that some are one of; and
for each operation the model of its answer. Needs python3-yaml.

    = Name                  a model; the lines after it are its fields
    Field! type a|b         `!`: it is always there; `?`: it may be null; values if only some are meant
    > GET /path 200 type    the answer of an operation

Types are string, integer, number, boolean, any, Name, [type] and {type}, a map of it.
"""

import sys

import yaml


class Table:
    """The models that were met, by name."""

    def __init__(self, description):
        self.definitions = description["definitions"]
        self.models = {}

    def kind(self, schema, name):
        """The type of a schema. One that has no name of its own gets one by its place."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            target = self.definitions[name]
            if self.is_plain(target):
                return self.kind(target, name)
            self.model(target, name)
            return name
        parts = schema.get("allOf", [])
        if len(parts) == 1 and "$ref" in parts[0] and not schema.get("properties"):
            return self.kind(parts[0], name)
        if parts or schema.get("properties"):
            self.model(schema, name)
            return name
        match schema.get("type"):
            case "array":
                return f"[{self.kind(schema.get('items', {}), name + '.item')}]"
            case "object":
                inner = schema.get("additionalProperties")
                return "{" + self.kind(inner, name + ".value") + "}" if isinstance(inner, dict) else "{any}"
            case "string" | "integer" | "number" | "boolean" as plain:
                return plain
        return "any"

    @staticmethod
    def is_plain(schema):
        return "allOf" not in schema and not schema.get("properties")

    def model(self, schema, name):
        if name in self.models:
            return
        self.models[name] = {}
        for part in [schema, *schema.get("allOf", [])]:
            if "$ref" in part:
                part = self.definitions[part["$ref"].rsplit("/", 1)[1]]
            required = part.get("required", [])
            if part.get("allOf") and part is not schema:
                self.model(part, name + ".part")
                self.models[name].update(self.models[name + ".part"])
            for field, inner in part.get("properties", {}).items():
                self.models[name][field] = self.field(field, inner, name, field in required)

    def field(self, field, inner, name, required):
        kind = self.kind(inner, f"{name}.{field}")
        target = inner
        while "$ref" in target:
            target = self.definitions[target["$ref"].rsplit("/", 1)[1]]
        nullable = inner.get("x-nullable") or target.get("x-nullable")
        values = "|".join(str(value) for value in target.get("enum", []) if str(value).strip())
        marks = ("!" if required else "") + ("?" if nullable else "")
        return f"{field}{marks} {kind} {values}".strip()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        description = yaml.safe_load(file)
    table, answers = Table(description), []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            for status, response in operation.get("responses", {}).items():
                schema = response.get("schema")
                if schema and int(status) < 300:
                    name = operation["operationId"] + "Answer"
                    answers.append(f"> {method.upper()} {path} {status} {table.kind(schema, name)}")
    for name, fields in sorted(table.models.items()):
        print(f"= {name}")
        print("\n".join(fields.values()))
    print("\n".join(answers))


if __name__ == "__main__":
    main()
