// What a program writes that was made for inboxd with openapi-typescript. It is compiled, not run.
import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

// Metadata is set, cleared member by member, and cleared as a whole.
export const set: Schemas["UpdateInbox"] = { metadata: { customer: "c-42", seats: [1, 2] } };
export const cleared: Schemas["UpdateInbox"] = { metadata: { customer: null } };
export const removed: Schemas["UpdateInbox"] = { metadata: null, displayName: null };
export const made: Schemas["CreateInbox"] = { username: "scout", metadata: { customer: "c-42" } };
export const customerOf = (inbox: Schemas["Inbox"]): unknown => inbox.metadata["customer"];
// @ts-expect-error: a mistyped field is an error before the call is made.
export const mistyped: Schemas["CreateInbox"] = { userName: "scout" };

// Every error of every call is one type.
type Bodies<Response> = Response extends { content: { "application/json": infer Body } } ? Body : never;
type Statuses = 400 | 401 | 403 | 404 | 408 | 409 | 412 | 413 | 422 | 431 | 500;
type Errors<Operation> = Operation extends { responses: infer Responses }
  ? Bodies<Responses[Extract<keyof Responses, Statuses>]>
  : never;
type Methods = "get" | "post" | "patch" | "delete";
type ErrorsOfAll = { [Path in keyof paths]: Errors<paths[Path][Extract<keyof paths[Path], Methods>]> }[keyof paths];
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
export const oneErrorType: Same<ErrorsOfAll, Schemas["Error"]> = true;

export function sentence(error: ErrorsOfAll): string {
  return error.field === undefined ? `${error.code}: ${error.error}` : `${error.field} was refused: ${error.error}`;
}

// What a caller learns from an answer that was given before.
export const isStale = (inbox: Schemas["CreatedInbox"]): boolean => inbox.stale?.includes("password") ?? false;
